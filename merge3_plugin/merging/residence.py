"""Where the parents' tensors are while a GPU merges: on it, or in host memory that it reads at full speed."""

from __future__ import annotations

import torch

from merge3_plugin.machine import can_spare

# Of a GPU's memory: what is left to the passes of the model.
_LEFT_FREE = 0.1


class Residence:
    """Parents' tensors on ``device``, flat or not, which are told apart by where they lie in host memory.

    They stay on a GPU while a tenth of its memory is free, for the passes of the model. Further ones are copied there
    for every merge, from page-locked memory while a tenth of the host's is free, which is several times as fast as
    from the pages of a file, and needs no waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[int, torch.Tensor] = {}
        self._locked: dict[int, torch.Tensor] = {}

    def on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device; not to be written to."""
        if tensor.device == self._device:
            return tensor
        address = tensor.data_ptr()
        if address in self._kept:
            return self._kept[address].view(tensor.shape)
        moved = self._from_host(tensor).to(self._device, non_blocking=True)
        if self._device.type != "cuda" or _free_on(self._device) > _LEFT_FREE:
            self._kept[address] = moved
            self._locked.pop(address, None)
        return moved.view(tensor.shape)

    def _from_host(self, tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.data_ptr()
        if address in self._locked:
            return self._locked[address]
        # While all go to the GPU, each is copied once, and locking would only take time.
        if self._device.type != "cuda" or _free_on(self._device) > _LEFT_FREE:
            return tensor
        if not can_spare(tensor.numel() * tensor.element_size()):
            return tensor
        return self._locked.setdefault(address, tensor.pin_memory())


def _free_on(device: torch.device) -> float:
    """Which share of a GPU's memory is free."""
    free, whole = torch.cuda.mem_get_info(device)
    return free / whole
