"""What every SuperNode runs in a round."""

import time

import peft
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lora_app.task import load_model, train

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train_round(message: Message, context: Context) -> Message:
    config, client = dict(context.run_config), int(context.node_config["client"])
    model = load_model(config)
    peft.set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    started = time.time()
    count = train(model, config, client, int(message.content["config"]["server-round"]))
    metrics = MetricRecord({"num-examples": count, "seconds": time.time() - started})
    arrays = ArrayRecord(peft.get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
