"""Use trained models in other software, and models of other libraries here. In the order to read them:

diffusers        convert a UNet to UNet2DModel of Hugging Face Diffusers, and back
pipeline         a model as a pipeline folder of Diffusers, and back
gaussian_parts   scheduler and pipeline of a model that predicts ε, x₀ or v
flow_parts       those of a model with flow prediction
flow_pipeline    the code in the folder of such a model
network_part     the network of a pipeline folder
pixel_head_unet  the code in the folder of a network with a head
clock            timesteps that are not evenly spaced
shuffle_vae      pixel_shuffle as a vae
foreign          import pipelines that this package did not write
onnx             write a network as one ONNX file and run it without torch
onnx_variants    ONNX files with a sampler inside, or with smaller weights
card             the model card that comes with every export
"""
