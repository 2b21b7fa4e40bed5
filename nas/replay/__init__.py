"""The command ``backbone-nas replay``: replay searches on published accuracies and latencies. Nothing is trained."""
