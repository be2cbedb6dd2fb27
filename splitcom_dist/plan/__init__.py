"""Who should train what, over which link, so that training ends soonest: pure numerics, no ranks."""
