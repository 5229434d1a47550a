"""Settings that are valid one by one and impossible together."""

import pytest

from configs.load import ConfigError, load


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "test.sampling=twice clip.sampling=dense",
            "test.sampling twice takes a frame of each segment .* clip.sampling is dense",
        ),
        ("test.sampling=twice test.clips=3", "twice has 2 clips, but test.clips is 3"),
        (
            "model.arch=mobilenetv2 model.non_local=gaussian",
            "model.non_local works only with a ResNet, but model.arch is mobilenetv2",
        ),
        (
            "model.arch=mobilenetv2 model.temporal_pool=true",
            "model.temporal_pool works only with a ResNet",
        ),
        (
            "model.temporal_pool=true clip.num_segments=5",
            "halves the frames of a clip, but clip.num_segments is 5; choose an even number",
        ),
        ("test.last_checkpoints=3", "averages the last checkpoints, but test.checkpoint is best"),
        ("clip.modality=diff", "clip.frames_per_segment is 1; set clip.frames_per_segment=6"),
        ("clip.modality=flow augment.color_jitter=0.1", "clip.modality flow has no colors"),
        ("clip.modality=flow augment.randaugment_ops=2", "clip.modality flow has no colors"),
        ("optim.optimizer=adamw optim.nesterov=true", "set optim.nesterov=false"),
        ("optim.beta2=0.99", "no effect with optim.optimizer sgd; leave it out or"),
        ("optim.layer_decay=0.7 optim.groups=single", "set optim.groups=module or"),
        ("model.arch=mobilenetv2 train.freeze=layer2", "leave train.freeze out or choose another"),
        ("model.arch=mobilenetv2 optim.layer_decay=0.7", "leave optim.layer_decay out or choose"),
        ("train.loss=bce train.class_weights=sqrt", "set train.class_weights=none"),
        ("train.patience_metric=loss", "set train.patience, for example train.patience=10"),
        ("data.folds=1", "set data.folds to 2 or more, and data.fold to a number below it"),
        ("data.fold=1", "data.fold 1 of data.folds 0 does not exist"),
        ("data.folds=3 data.fold=3", "data.fold 3 of data.folds 3 does not exist"),
        ("data.balanced=true data.order=local", "set data.order=global"),
        ("data.balanced=true train.loss=bce", "needs one label per video, but train.loss is bce"),
        ("data.balanced=true train.class_weights=sqrt", "would both correct the same imbalance"),
    ],
)
def test_impossible_combinations_are_rejected_in_words(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(None, settings.split())
