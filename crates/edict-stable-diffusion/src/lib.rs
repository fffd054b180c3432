//! Stable Diffusion networks, model folders and image editing by exact inversion, generic over a tensor back end.
