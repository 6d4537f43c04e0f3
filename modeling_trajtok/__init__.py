"""TrajTok for Transformers: ``import modeling_trajtok`` makes the Auto classes know its models.

import modeling_trajtok
from transformers import AutoModel, AutoVideoProcessor
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_trajadapter import TrajAdapterConfig
from .configuration_trajtok import TrajTokConfig
from .configuration_trajvit2 import TrajViT2Config, TrajViT2TransformerConfig
from .configuration_trajvlm import TrajVLMConfig
from .modeling_trajadapter import TrajAdapterForVideoClassification, TrajAdapterModel, TrajAdapterPreTrainedModel
from .modeling_trajtok import TrajTokModel, TrajTokPreTrainedModel, TrajTokSegmenterModel
from .modeling_trajvit2 import (
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2PreTrainedModel,
    TrajViT2VideoModel,
)
from .modeling_trajvlm import TrajVLMForConditionalGeneration, TrajVLMGrouping, TrajVLMModel, TrajVLMPreTrainedModel
from .outputs_trajtok import (
    TrajAdapterClassifierOutput,
    TrajAdapterOutput,
    TrajTokOutput,
    TrajViT2ClassifierOutput,
    TrajViT2Output,
    TrajViT2VideoOutput,
    TrajVLMFeatures,
    TrajVLMGroupingOutput,
    TrajVLMModelOutput,
    TrajVLMOutput,
)
from .processors import TrajTokVideoProcessor, TrajViT2Processor, TrajVLMProcessor
from .zero_shot_video_classification import ZeroShotVideoClassificationPipeline

__version__ = "0.1.0"

AutoConfig.register(TrajTokConfig.model_type, TrajTokConfig)
AutoModel.register(TrajTokConfig, TrajTokModel)
AutoVideoProcessor.register(TrajTokConfig, TrajTokVideoProcessor)

AutoConfig.register(TrajViT2Config.model_type, TrajViT2Config)
AutoModel.register(TrajViT2Config, TrajViT2Model)
AutoModelForVideoClassification.register(TrajViT2Config, TrajViT2ForVideoClassification)
AutoVideoProcessor.register(TrajViT2Config, TrajTokVideoProcessor)
AutoProcessor.register(TrajViT2Config, TrajViT2Processor)

AutoConfig.register(TrajVLMConfig.model_type, TrajVLMConfig)
AutoModel.register(TrajVLMConfig, TrajVLMModel)
AutoModelForImageTextToText.register(TrajVLMConfig, TrajVLMForConditionalGeneration)
AutoModelForMultimodalLM.register(TrajVLMConfig, TrajVLMForConditionalGeneration)
AutoVideoProcessor.register(TrajVLMConfig, TrajTokVideoProcessor)
AutoProcessor.register(TrajVLMConfig, TrajVLMProcessor)

AutoConfig.register(TrajAdapterConfig.model_type, TrajAdapterConfig)
AutoModel.register(TrajAdapterConfig, TrajAdapterModel)
AutoModelForVideoClassification.register(TrajAdapterConfig, TrajAdapterForVideoClassification)
AutoVideoProcessor.register(TrajAdapterConfig, TrajTokVideoProcessor)

PIPELINE_REGISTRY.register_pipeline(
    "zero-shot-video-classification",
    pipeline_class=ZeroShotVideoClassificationPipeline,
    pt_model=AutoModel,
    type="multimodal",
)

# With these, save_pretrained writes the code beside the weights, for `trust_remote_code=True` without this package.
TrajTokConfig.register_for_auto_class()
TrajTokModel.register_for_auto_class("AutoModel")
TrajTokVideoProcessor.register_for_auto_class()
TrajViT2Config.register_for_auto_class()
TrajViT2Model.register_for_auto_class("AutoModel")
TrajViT2ForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
TrajViT2Processor.register_for_auto_class()
TrajAdapterConfig.register_for_auto_class()
TrajAdapterModel.register_for_auto_class("AutoModel")
TrajAdapterForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
TrajVLMConfig.register_for_auto_class()
TrajVLMModel.register_for_auto_class("AutoModel")
TrajVLMForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
TrajVLMProcessor.register_for_auto_class()

__all__ = [
    "TrajAdapterClassifierOutput",
    "TrajAdapterConfig",
    "TrajAdapterForVideoClassification",
    "TrajAdapterModel",
    "TrajAdapterOutput",
    "TrajAdapterPreTrainedModel",
    "TrajTokConfig",
    "TrajTokModel",
    "TrajTokOutput",
    "TrajTokPreTrainedModel",
    "TrajTokSegmenterModel",
    "TrajTokVideoProcessor",
    "TrajVLMConfig",
    "TrajVLMFeatures",
    "TrajVLMForConditionalGeneration",
    "TrajVLMGrouping",
    "TrajVLMGroupingOutput",
    "TrajVLMModel",
    "TrajVLMModelOutput",
    "TrajVLMOutput",
    "TrajVLMPreTrainedModel",
    "TrajVLMProcessor",
    "TrajViT2ClassifierOutput",
    "TrajViT2Config",
    "TrajViT2ForVideoClassification",
    "TrajViT2Model",
    "TrajViT2Output",
    "TrajViT2PreTrainedModel",
    "TrajViT2Processor",
    "TrajViT2TransformerConfig",
    "TrajViT2VideoModel",
    "TrajViT2VideoOutput",
    "ZeroShotVideoClassificationPipeline",
]
