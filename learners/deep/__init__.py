"""The deep sequence model in torch: network, training, prediction and the model file."""
