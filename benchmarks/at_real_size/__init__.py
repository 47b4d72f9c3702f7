"""What `speed.py` and `real_size.py` share: models of published sizes with random weights, and ways to time them."""
