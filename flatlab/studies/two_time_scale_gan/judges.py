"""Who judges images: classifiers trained on the data set, whose last hidden features FID is taken in."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flatlab import gan, metrics, models, train
from flatlab.studies.two_time_scale_gan.settings import TwoTimeScaleGAN
from flatlab.studies.two_time_scale_gan.training import Images


class Judge:
    """A classifier, and the features of the real images in it.

    FIDs are against all training images. They depend on the classifier, so that `relative` FID, in units of the
    features' own variance tr C, stands beside each.

    Attributes:
        model, accuracy: the classifier, and its accuracy on test images.
        features: images, uint8 -> (N, D); its name holds a hash of the weights.
        real: statistics of the training images.
        scale: tr C of them.
        floor: FID of the test images, which are real.
    """

    def __init__(self, cfg: TwoTimeScaleGAN, images: Images, seed: int) -> None:
        """Train the classifier of a seed.

        Args:
            cfg: the settings.
            images: data to train on.
            seed: of weights and batches.
        """
        options = dict(cfg.judge_options)
        self.model = models.build(cfg.judge_model, images.shape, images.classes, seed=seed, options=options)
        self.model.to(images.device)
        train.fit(self.model, images.train, train.cross_entropy, cfg.judge_recipe, seeds=seed)
        self.features = metrics.classifier_features(self.model.eval(), batch_size=1000)
        if cfg.inception:
            self.features = metrics.inception_v3(weights=cfg.inception)
            self.features.to(images.device)
        self.real = self.statistics(images.train.x)
        self.scale = float(self.real.cov.trace())
        self.floor = metrics.fid(self.real, self.features(images.test.x), warn=False)
        x, y = images.test.float()
        self.accuracy = train.accuracy(self.model, x, y)

    def statistics(self, images: Tensor) -> metrics.FIDStats:
        """Of images (N, C, H, W), uint8."""
        return metrics.FIDStats(self.features.name).update(self.features(images))

    def fid(self, images: Tensor) -> float:
        """Of images (N, C, H, W), uint8, against the training images."""
        return metrics.fid(self.real, self.features(images), warn=False)

    def score(self, samples: Tensor) -> Mapping[str, float]:
        """FID, FID over tr C, and its log10, of samples (N, C, H, W) in [-1, 1], rounded to uint8 first."""
        found = self.fid(gan.to_uint8(samples))
        return {"fid": found, "relative": found / self.scale, "log": math.log10(max(found / self.scale, 1e-9))}

    def inception(self, images: Tensor) -> float:
        """Inception score of images (N, C, H, W), uint8, by the classifier's own probabilities."""
        with torch.no_grad():
            logits = torch.cat([self.model(part.float() / 255) for part in images.split(1000)])
        return metrics.inception_score(logits.double().softmax(1))
