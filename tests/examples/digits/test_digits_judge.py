import pytest
import torch
from judge import DigitJudge, agreement, extract_features, frechet_distance, load_judge, save_judge, train_judge


def symmetric_samples(mean, deviations):
    """Points at `mean +- deviation * e_i * sqrt((n - 1) / 2)`, whose sample covariance is exactly `diag(deviations^2)`."""
    deviations = torch.tensor(deviations, dtype=torch.float64)
    number = 2 * len(deviations)
    offsets = torch.diag(deviations) * ((number - 1) / 2) ** 0.5
    return torch.tensor(mean, dtype=torch.float64) + torch.cat([offsets, -offsets])


@pytest.mark.parametrize(
    ("mean", "deviations", "expected"),
    [
        ([0.0, 0.0], [1.0, 1.0], 0.0),
        ([3.0, 4.0], [1.0, 1.0], 25.0),
        ([0.0, 0.0], [3.0, 2.0], 5.0),  # (3 - 1)^2 + (2 - 1)^2
        ([1.0, 0.0], [0.0, 1.0], 2.0),  # a singular covariance
    ],
)
def test_frechet_distance_of_gaussians_by_hand(mean, deviations, expected):
    unit = symmetric_samples([0.0, 0.0], [1.0, 1.0])
    samples = symmetric_samples(mean, deviations)
    assert frechet_distance(samples, unit) == pytest.approx(expected, abs=1e-7)
    assert frechet_distance(unit, samples) == pytest.approx(expected, abs=1e-7)


def test_frechet_distance_with_covariances_that_do_not_commute():
    """trace((A B)^(1/2)) of 2x2 matrices is sqrt(trace(A B) + 2 sqrt(det(A B)))."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    a = symmetric_samples([0.0, 0.0], [1.0, 3.0])
    b = symmetric_samples([0.0, 0.0], [2.0, 1.0]) @ turn.T
    covariance_a, covariance_b = a.T.cov(), b.T.cov()
    product = covariance_a @ covariance_b
    root_trace = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = covariance_a.trace() + covariance_b.trace() - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(expected.item(), abs=1e-9)


def test_frechet_distance_needs_two_samples():
    with pytest.raises(ValueError, match="at least two samples"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))


def test_judge_learns_from_a_few_digits_and_comes_back_from_disk(splits, tmp_path):
    images, labels = splits["train"]
    state = torch.random.get_rng_state()
    judge = train_judge(images[:1000], labels[:1000], epochs=3, batch_size=50)
    assert torch.equal(torch.random.get_rng_state(), state)
    test_images, test_labels = (tensor[:300] for tensor in splits["test"])
    features = extract_features(judge, test_images)
    assert features.shape == (300, 64)
    assert agreement(judge, features, test_labels) > 0.8
    save_judge(judge, tmp_path / "judge.safetensors")
    assert torch.equal(extract_features(load_judge(tmp_path / "judge.safetensors"), test_images), features)


def test_agreement_counts_the_digits_asked_for():
    judge = DigitJudge().eval()
    features = extract_features(judge, torch.rand(8, 3, 32, 32))
    seen = judge.classifier(features).argmax(dim=1)
    wrong = torch.cat([seen[:6], (seen[6:] + 1) % 10])
    assert agreement(judge, features, seen) == 1.0
    assert agreement(judge, features, wrong) == 0.75


def test_missing_judge_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"judge\.py --output"):
        load_judge(tmp_path / "judge.safetensors")
