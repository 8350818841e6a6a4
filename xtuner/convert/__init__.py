"""Convert checkpoints to folders and files for other programs; tensors are streamed, no model is built.

pth_to_hf    iter_N.pth + config          ->  an adapter folder, or a model folder
merge        model folder + adapter       ->  a model folder
split        model folder                 ->  the same with one tensor in each file
gguf         model folder                 ->  one file for llama.cpp
ollama       model folder                 ->  a Modelfile
"""
