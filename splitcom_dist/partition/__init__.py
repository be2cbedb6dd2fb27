"""`splitcom partition`: what each client would train on."""
