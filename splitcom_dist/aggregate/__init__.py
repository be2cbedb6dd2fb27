"""How the LoRA factors of clients with different ranks become one adapter: pure tensor functions, no ranks, no groups.

What is wanted is the weighted mean of the products, sum_k w_k B_k A_k with sum_k w_k = 1, since products are what the
model adds to its weights; the mean of the factors is another matter (B A is not linear in them). All clients' products
are scaled alike.
"""
