// One colour per class, distinguishable also for colour-blind people (after Okabe and Ito), bright enough on video.

const COLOURS = ["#38bdf8", "#fbbf24", "#34d399", "#fb7185", "#c084fc", "#f97316", "#a3e635", "#f0abfc"];

export const colourOf = (index) => COLOURS[index % COLOURS.length];
