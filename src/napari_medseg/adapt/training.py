"""The training loop: AdamW, warm-up and cosine decay, averaged weights, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.case import MedsegError

if TYPE_CHECKING:
    import torch


class Trainer:
    """Fit a network to batches and keep an exponential moving average of its weights.

    Parameters
    ----------
    network
        The network; receives ``batch["image"]`` and its output goes to `loss` with ``batch["label"]``.
    batches
        Batches; started again when they run out.
    loss
        Callable (output float32, label) → scalar.
    steps
        Optimiser steps that the learning rate's course is laid out for.
    directory
        Where ``model.safetensors`` (averaged weights) and ``progress.jsonl`` go.
    learning_rate, weight_decay
        Of AdamW; the rate rises over the first 3 % of the steps and then falls to 0 along a cosine.
    ema_decay
        Of the averaged weights; less in the beginning, when the weights still move fast.
    bf16
        Forward pass in bfloat16 where the operation allows it.
    save_every
        Steps between checkpoints.
    score
        Called with the averaged network at each checkpoint; what it returns is written to the progress file.
        It never changes the training.
    threads
        Processor threads for torch; left as they are when 0.
    stop_after
        End after this many steps without changing the rate's course; after `steps` when 0.
    start
        Weights (safetensors) to begin with; read when the training starts. The network's own without.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        batches: Iterable[Mapping[str, Any]],
        loss: Callable[[Any, Any], Any],
        steps: int,
        directory: str | Path,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        ema_decay: float = 0.999,
        bf16: bool = True,
        save_every: int = 500,
        score: Callable[[torch.nn.Module], Mapping[str, float]] | None = None,
        threads: int = 0,
        stop_after: int = 0,
        start: str | Path | None = None,
    ) -> None:
        import copy

        import torch

        if threads:
            torch.set_num_threads(threads)
        self.network, self.batches, self.loss = network, batches, loss
        self.steps, self.directory = steps, Path(directory)
        self.start = start
        self.last = min(stop_after or steps, steps)
        self.learning_rate, self.ema_decay, self.bf16 = learning_rate, ema_decay, bf16
        self.save_every, self.score = save_every, score
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up over 3 % of the steps, then half a cosine down to 0."""
        warm = max(1, round(0.03 * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def run(self) -> Path:
        """Train and return the file of the averaged weights (safetensors, float32).

        Raises
        ------
        MedsegError
            The loss is not a number, or infinite.
        """
        import torch

        self.directory.mkdir(parents=True, exist_ok=True)
        if self.start is not None:
            from safetensors.torch import load_file

            for network in (self.network, self.average):
                network.load_state_dict(load_file(self.start))
        self.network.train()
        source = iter(self.batches)
        started, running = time.monotonic(), 0.0
        for step in range(self.last):
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(step)
            try:
                batch = next(source)
            except StopIteration:
                source = iter(self.batches)
                batch = next(source)
            image, label = torch.as_tensor(batch["image"]), torch.as_tensor(batch["label"])
            with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                output = self.network(image)
            loss = self.loss(output.float(), label)
            if not torch.isfinite(loss):
                raise MedsegError(
                    f"The loss is {float(loss)} at step {step + 1}: a smaller learning rate, or float32 instead of "
                    "bfloat16, keeps it finite. The last checkpoint stays."
                )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimiser.step()
            self._follow(step)
            running += float(loss.detach())
            if (step + 1) % self.save_every == 0 or step + 1 == self.last:
                span = self.save_every if (step + 1) % self.save_every == 0 else (step + 1) % self.save_every
                self._save(step + 1, running / span, time.monotonic() - started)
                running = 0.0
        return self.directory / "model.safetensors"

    def _follow(self, step: int) -> None:
        """Move the averaged weights towards the current ones; statistics of normalisation layers too."""
        import torch

        decay = min(self.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(now.to(mean.dtype), 1 - decay)
                else:
                    mean.copy_(now)

    def _save(self, step: int, loss: float, seconds: float) -> None:
        from safetensors.torch import save_file

        scores = dict(self.score(self.average)) if self.score else {}
        partial = self.directory / "model.safetensors.partial"
        save_file({k: v.contiguous() for k, v in self.average.state_dict().items()}, partial)
        partial.replace(self.directory / "model.safetensors")
        line = {"step": step, "loss": round(loss, 5), "seconds": round(seconds, 1)} | scores
        with (self.directory / "progress.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def export_weights(trained: str | Path, target: str | Path) -> None:
    """Store trained weights as float16 safetensors, half the size; running statistics stay float32.

    Raises
    ------
    InputError
        A weight is no number, or lies outside the range of float16.
    """
    from safetensors.torch import load_file, save_file

    from napari_medseg.bundles.save.weights import stored_weights

    save_file(stored_weights(load_file(trained), "float16"), target)
