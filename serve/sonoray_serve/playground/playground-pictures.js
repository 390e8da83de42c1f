// From dropped files to what the API takes: data: URLs, each with a preview.
//
// PNG, JPEG, BMP and DICOM go as they are, byte by byte. What only the browser can read (WebP, a
// video) is drawn and sent as PNG; of a video the middles of equal stretches of time are taken, as
// ingest does it.

const VIDEO_FRAMES = 8;
const AS_THEY_ARE = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8]],
  ["image/bmp", [0x42, 0x4d]],
];

const begins = (bytes, magic, at = 0) => magic.every((byte, i) => bytes[at + i] === byte);

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000)
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").drawImage(source, 0, 0);
  return canvas.toDataURL("image/png");
}

const once = (target, event) =>
  new Promise((resolve, reject) => {
    target.addEventListener(event, resolve, { once: true });
    target.addEventListener("error", () => reject(new Error("unreadable")), { once: true });
  });

async function framesOf(file) {
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  try {
    await once(video, "loadeddata");
    const length = video.duration;
    if (!Number.isFinite(length) || !video.videoWidth) throw new Error("unreadable");
    const found = [];
    for (let number = 0; number < VIDEO_FRAMES; number++) {
      video.currentTime = ((number + 0.5) * length) / VIDEO_FRAMES;
      await once(video, "seeked");
      found.push(drawn(video, video.videoWidth, video.videoHeight));
    }
    return [...new Set(found)]; // a stretch without a new frame gives the one before it
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

// The pictures of a file: [{name, url, preview}]; preview is empty where no browser can draw it.
export async function picturesOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (begins(bytes, [0x44, 0x49, 0x43, 0x4d], 128)) {
    const url = `data:application/dicom;base64,${toBase64(bytes)}`;
    return [{ name: file.name, url, preview: "" }];
  }
  const known = AS_THEY_ARE.find(([, magic]) => begins(bytes, magic));
  if (known) {
    const url = `data:${known[0]};base64,${toBase64(bytes)}`;
    return [{ name: file.name, url, preview: url }];
  }
  if (file.type.startsWith("video/")) {
    const frames = await framesOf(file);
    return frames.map((url, i) => ({ name: `${file.name} #${i + 1}`, url, preview: url }));
  }
  const bitmap = await createImageBitmap(file);
  const url = drawn(bitmap, bitmap.width, bitmap.height);
  return [{ name: file.name, url, preview: url }];
}
