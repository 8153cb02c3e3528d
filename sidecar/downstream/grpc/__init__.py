"""gRPC on the client side.

answers     recognises a call; refusals as trailers only, and the status of an answer that breaks off
"""
