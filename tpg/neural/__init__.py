"""A small transformer with an exact gradient: the same estimators at neural scale.  The only room that imports torch.

gpt        the network                         task, rewards   what it generates and is paid
subtrees   the token tree in pieces            exact           J and ∇J over every response
problem    the network as a Problem            sample          responses, credits, one surrogate loss
"""
