"""Parts that families share: decay, drift detectors, prequential scores, regression."""
