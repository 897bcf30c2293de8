/** uplot.js, as it was published, defines this name. */
export const uPlot: any;
