from . import noise
from .update import langevin_update_
