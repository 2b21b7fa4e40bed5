"""The layers of backbones: blocks, stems, downsampling layers and the neck; independent of specs."""
