"""An atomic model against a map: density, scores, errors, voxel size and docking."""
