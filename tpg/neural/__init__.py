"""A small transformer with an exact gradient: the same estimators at neural scale.  The only room that imports torch.

gpt        the network                         task, rewards   what it generates and is paid
subtrees   the token tree in pieces            exact           J and ∇J over every response
problem    the network as a Problem            enumeration     ∇J by slow roads, to check against
generate   responses, keys and values cached   sample          their rollouts and credits
montecarlo one surrogate loss, sampled ĝ       check           sampled ĝ against exact mean and variance
critic     a learned critic, frozen            cost            memory and tokens of an update
train      learning curves with exact J        case            a network with its task, for claims
"""
