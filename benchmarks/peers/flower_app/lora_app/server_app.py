"""What runs beside the SuperLink: federated averaging, and the loss on held-out text after the last round."""

import json
import time
from pathlib import Path

import peft
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lora_app.task import held_out_loss, load_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = dict(context.run_config)
    model, clients, rounds = load_model(config), int(config["clients"]), int(config["rounds"])

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        mark, loss = {"round": number, "time": time.time()}, float("nan")
        if number == rounds:
            peft.set_peft_model_state_dict(model, arrays.to_torch_state_dict())
            loss = mark["loss"] = held_out_loss(model, config)
        with Path(config["marks"]).open("a") as file:
            file.write(json.dumps(mark) + "\n")
        return MetricRecord({"loss": loss})

    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients, min_evaluate_nodes=0
    )
    initial = ArrayRecord(peft.get_peft_model_state_dict(model))
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=evaluate)
