"""gRPC on the client side.

answers     answers to gRPC calls: refusals as trailers only, and the status of an answer that breaks off
"""
