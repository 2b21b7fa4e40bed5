"""The layers of backbones: blocks, stems, downsampling layers and the neck; independent of specs.

`backbones.build.BLOCK_BUILDERS` builds a stage of each block:

| block              | class              | source                                                             |
|--------------------|--------------------|--------------------------------------------------------------------|
| `c2f`              | `C2f`              | YOLOv8, which has no paper; in E-RADIO (arXiv 2312.06709)          |
| `light_c2f`        | `C2f`              | the same, of HGNetV2's light convolutions (arXiv 2304.08069)       |
| `basic`            | `Basic`            | ResNet (arXiv 1512.03385)                                          |
| `bottleneck`       | `Bottleneck`       | ResNet (arXiv 1512.03385), RegNet (arXiv 2003.13678)               |
| `mbconv`           | `MBConv`           | MobileNetV2 (arXiv 1801.04381)                                     |
| `fused_mbconv`     | `FusedMBConv`      | EfficientNetV2 (arXiv 2104.00298)                                  |
| `convnext`         | `ConvNeXt`         | ConvNeXt (arXiv 2201.03545)                                        |
| `repdw`            | `RepDW`            | RepViT (arXiv 2307.09283), FastViT (arXiv 2303.14189)              |
| `pool`             | `PoolMixer`        | PoolFormer (arXiv 2111.11418)                                      |
| `window`           | `WindowBlock`      | E-RADIO (arXiv 2312.06709)                                         |
| `mr_window`        | `WindowBlock`      | E-RADIO (arXiv 2312.06709): one block for each of several ratios   |
| `attention`        | `GlobalBlock`      | ours: E-RADIO's layer over the whole map                           |
| `linear_attention` | `LinearAttention`  | EfficientViT (arXiv 2205.14756)                                    |
| `single_head`      | `SingleHead`       | SHViT (arXiv 2401.16456)                                           |
| `bn_attention`     | `BnAttention`      | LeViT (arXiv 2104.01136)                                           |
| `swin`             | `PartitionedLayer` | Swin (arXiv 2103.14030)                                            |
| `maxvit`           | `MaxViT`           | MaxViT (arXiv 2204.01697)                                          |
| `carrier`          | `Carrier`          | FasterViT (arXiv 2306.06189)                                       |
| `vit`              | `ViT`              | ViT (arXiv 2010.11929); the sources of its options are in `vit.py` |
"""
