"""Make torchvision importable where this module is imported: in the process that all programs' processes come from."""

from imagegen_core.diffusion.torchvision import make_torchvision_importable

make_torchvision_importable()
