from edgeq.frontends.onnx.interpret import interpret as cut
class Ends: pass
