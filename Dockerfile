FROM python:3.12-slim

RUN useradd --create-home --uid 1000 backend \
    && mkdir /data \
    && chown backend:backend /data

WORKDIR /app

# The hashes in requirements.txt are checked; --no-deps because label-studio-ml pins a web stack of 2021.
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY al_backend ./al_backend
COPY model ./model
RUN pip install --no-cache-dir --no-deps .

ENV PYTHONUNBUFFERED=1 \
    MODEL_DIR=/data/models \
    AL_DATA_DIR=/data/backend \
    AL_HOST=0.0.0.0

USER backend
VOLUME /data
EXPOSE 9090

HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '9090') + '/health', timeout=4)"]

CMD ["al-backend", "up"]
