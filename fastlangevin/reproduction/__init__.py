"""The tables of Nijkamp et al. (NeurIPS 2019, arXiv:1904.09770) on any data."""
