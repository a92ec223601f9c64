"""Response families by row: densities, links and their derivatives."""
