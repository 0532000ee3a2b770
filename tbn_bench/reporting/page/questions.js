// The figures of the questions, which are packed: one image each, on white paper.
const packedPictures = document.getElementById("question-pictures");
if (packedPictures) unpack(packedPictures.textContent).then(text => {
  for (const [key, picture] of Object.entries(JSON.parse(text))) {
    const image = document.querySelector(`#question-${key} img`);
    if (image) image.src = URL.createObjectURL(new Blob([picture], { type: "image/svg+xml" }));
  }
});
