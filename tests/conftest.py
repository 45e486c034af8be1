"""What every test starts from."""

import torch

torch.set_num_threads(1)  # tensors here are small: threads only wait for each other
