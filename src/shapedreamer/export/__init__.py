"""Use trained models in other libraries.

Two independent modules; read either one on its own:

    diffusers   convert a UNet to UNet2DModel of Hugging Face Diffusers, and back
    onnx        write a network as one ONNX file and run it without torch
"""
