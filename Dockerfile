# docker build -t training . && docker run --rm --gpus all --ipc=host -v "$PWD/saved:/project/saved" training
# Other commands go behind it: ... training python test.py -r latest. Without a GPU, leave out --gpus all.
FROM python:3.11-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /project
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY . .
CMD ["python", "train.py", "-c", "config.json"]
