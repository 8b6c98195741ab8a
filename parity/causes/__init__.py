"""Families of causes: each looks at a place and says what both sides compute there, if that gives their numbers."""

from parity.causes import channels, elementwise, fed, inserted, joins, linear, norms, pools, shuffles, signatures

# From what is certain to what is only a sign.
FAMILIES = (
    joins.find,
    norms.find,
    shuffles.find,
    elementwise.find,
    linear.find,
    pools.find,
    fed.find,
    inserted.find,
    channels.find,
    signatures.find,
)
