"""Use trained models in other software, and models of other libraries here. In the order to read them:

diffusers      convert a UNet to UNet2DModel of Hugging Face Diffusers, and back
pipeline       a model as a pipeline folder of Diffusers, and back
flow_pipeline  the code in such a folder if the model predicts the velocity of flow matching
onnx           write a network as one ONNX file and run it without torch
onnx_variants  ONNX files with a sampler inside, or with smaller weights
card           the model card that comes with every export
"""
