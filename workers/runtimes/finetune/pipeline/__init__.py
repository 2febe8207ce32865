"""Fine-tunes of a model that is cut into stages, one a device (DeepSpeed's PipelineModule)."""
