"""What both ends of a link remember, by position key."""
