"""ONNX: the function of "serve_windows", with the draws as an input, for any batch."""


def write(served, path):
    import tf2onnx

    function, signature = served.function_of_windows(None)
    with served.plain():
        tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(path))
