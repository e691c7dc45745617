"""From the loss of every token to one loss: reductions, task weightings, and their replay.

The weightings work in any training loop, with NumPy arrays in the order of the tasks. ``tools/own_loop.py`` is a whole
one; the part that matters, with CoBa:

    weighting = make_weighting({"type": "coba"}, ["code", "math"])
    for step, batches in enumerate(steps):  # one batch per task
        if step % 10 == 0:
            losses = np.array([validation_loss(model, task) for task in tasks])
            weighting.observe("validation", step, TaskLosses.of(losses, np.ones(len(tasks))))
        losses = torch.stack([loss_function(model, batch) for batch in batches])
        weights = weighting.weights(step, np.ones(len(tasks)))  # 0 in place of 1 for a task without a batch
        (torch.from_numpy(weights).to(losses) @ losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        weighting.observe("train", step, TaskLosses.of(losses.detach().double().numpy(), np.ones(len(tasks))))

A weighting ignores what it does not observe (``TaskWeighting`` lists the kinds), so all may be shown to any of them.
``weighting.state_dict()`` is JSON and belongs into the checkpoint.
"""

from mftcoder.losses.simulation import simulate
from mftcoder.losses.weighting import TaskLosses, make_weighting

__all__ = ["TaskLosses", "make_weighting", "simulate"]
