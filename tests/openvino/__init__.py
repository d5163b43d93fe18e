"""The OpenVINO backend: it draws the pictures of torch's backends."""
