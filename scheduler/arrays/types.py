"""Names for the array types of the planner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Shorts = npt.NDArray[np.int16]
