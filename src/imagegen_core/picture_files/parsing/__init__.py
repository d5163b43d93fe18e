"""Parse a picture file's structure without its pixels: size, text and Exif, each within limits."""
