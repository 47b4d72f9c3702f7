"""Models of published sizes with random weights, and functions to time them."""
