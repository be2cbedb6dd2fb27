"""The two ends of one link of one logical client: values in, packets out, and the reverse; every packet is booked."""
