"""What runs inside an engine worker. The only package of stackserve that imports vllm."""
