"""Services that show and compare runs, each behind one class: TensorBoard, W&B, SwanLab, MLflow, trackio.

LoggerHook, EvaluateChatHook -> Visualizer -> Guarded -> Tracker -> the service's own package
"""
