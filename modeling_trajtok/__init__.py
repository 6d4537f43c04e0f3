"""TrajTok for Transformers: ``import modeling_trajtok`` makes the Auto classes know its models.

import modeling_trajtok
from transformers import AutoModel, AutoVideoProcessor
"""

from transformers import AutoConfig, AutoModel, AutoVideoProcessor

from .configuration_trajtok import TrajTokConfig
from .modeling_trajtok import TrajTokModel, TrajTokPreTrainedModel, TrajTokSegmenterModel
from .outputs_trajtok import TrajTokOutput
from .processors import TrajTokVideoProcessor

__version__ = "0.1.0"

AutoConfig.register(TrajTokConfig.model_type, TrajTokConfig)
AutoModel.register(TrajTokConfig, TrajTokModel)
AutoVideoProcessor.register(TrajTokConfig, TrajTokVideoProcessor)

# With these, save_pretrained writes the code beside the weights, for `trust_remote_code=True` without this package.
TrajTokConfig.register_for_auto_class()
TrajTokModel.register_for_auto_class("AutoModel")
TrajTokVideoProcessor.register_for_auto_class()

__all__ = [
    "TrajTokConfig",
    "TrajTokModel",
    "TrajTokOutput",
    "TrajTokPreTrainedModel",
    "TrajTokSegmenterModel",
    "TrajTokVideoProcessor",
]
