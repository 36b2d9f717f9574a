"""How far would a mean have moved with other images of the same kind?"""

import numpy as np

# 2000 resamples find the ends of an interval to about 3 % of the standard error.
LEVEL, RESAMPLES, SEED = 0.95, 2000, 0


def interval(values) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: 95 %, 2000 resamples of the images, always the same draws.

    values: one number for each image; NaN is left out, and (NaN, NaN) is what is left of none. Few images
    give an interval that is too narrow: of normal values, 30 hold the mean 94 % of the time and 10 only 90 %.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
