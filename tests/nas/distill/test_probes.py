"""kNN and the segmentation probe on features whose answer is known."""

import pytest
import torch

from nas.distill.probes import fit_segmentation, knn_classify, mean_iou, segment


def test_knn_votes_by_cosine_not_by_length() -> None:
    bank = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 9.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert knn_classify(bank, labels, torch.tensor([[5.0, 0.2], [0.2, 0.3]]), classes=2).tolist() == [0, 1]


def test_knn_weighs_near_neighbours_more() -> None:
    # One very near neighbour of class 1 against three far ones of class 0: exp(1 / 0.07) outweighs 3 exp(0.6 / 0.07).
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [0.6, 0.8]])
    assert knn_classify(bank, torch.tensor([1, 0, 0, 0]), torch.tensor([[1.0, 0.0]]), classes=2).tolist() == [1]


def test_segmentation_probe_recovers_what_features_say() -> None:
    masks = torch.zeros(6, 8, 8, dtype=torch.long)
    for i in range(6):
        masks[i, : i + 1] = 1
    cells = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), 4)
    weights = fit_segmentation(torch.cat([cells, cells * 0 + 1], 1), masks, classes=2)
    predicted = segment(torch.cat([cells, cells * 0 + 1], 1), weights, 8)
    assert mean_iou(predicted, masks, 2) > 0.8


def test_mean_iou_by_hand_with_void() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, 1, 2]]])  # 2 is void for two classes
    predicted = torch.tensor([[[0, 1, 1], [1, 1, 1]]])
    # class 0: 1 of 2; class 1: 3 of 4.
    assert mean_iou(predicted, truth, 2) == pytest.approx((1 / 2 + 3 / 4) / 2)
