"""What runs beside the SuperLink: federated averaging, and the loss on held-out text after the last round."""

import json
import time
from pathlib import Path

import peft
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lora_app.task import held_out_loss, load_model

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    config = dict(context.run_config)
    model, clients, rounds = load_model(config), int(config["clients"]), int(config["rounds"])
    marks: list[dict[str, float]] = []

    def note(number: int, arrays: ArrayRecord) -> None:
        marks.append({"round": number, "time": time.time()})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    initial = ArrayRecord(peft.get_peft_model_state_dict(model))
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=note)
    peft.set_peft_model_state_dict(model, result.arrays.to_torch_state_dict())
    metrics = result.train_metrics_clientapp
    training = sum(float(metrics[number]["seconds"]) for number in range(2, rounds + 1))
    marks.append({"loss": held_out_loss(model, config), "training": training})
    Path(config["marks"]).write_text("".join(json.dumps(mark) + "\n" for mark in marks))
