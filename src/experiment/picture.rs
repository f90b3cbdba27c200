//! Pictures: one drawing, rendered as SVG and as PNG, with the sizes, type and colours that every picture shares. It knows
//! no experiment.
//!
//! The font is built in, so that a machine without fonts draws the same picture.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub type Area<B> = DrawingArea<B, Shift>;
pub type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A drawing that works on any backend.
pub trait Figure {
    /// Its name, which its files bear too.
    fn name(&self) -> &'static str;
    fn caption(&self) -> Caption;
    fn size(&self) -> (u32, u32) {
        (WIDTH, 900)
    }
    /// Fills what the caption leaves.
    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B>;
}

/// What is written above a drawing.
pub struct Caption {
    pub title: String,
    pub subtitle: String,
    pub legend: Vec<(LegendMark, String)>,
}

/// The sign beside a legend's text.
#[derive(Clone, Copy)]
pub enum LegendMark {
    Fill(RGBColor),
    Line(RGBColor),
    Band(RGBColor),
}

/// In pixels: wide enough that text is legible at the width of a README.
pub const WIDTH: u32 = 1600;
pub const TEXT_COLOUR: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub const MUTED: RGBColor = RGBColor(0x66, 0x66, 0x66);
const RULE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Okabe and Ito's palette: distinguishable with every common kind of colour vision.
pub const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
pub const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
pub const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
pub const PURPLE: RGBColor = RGBColor(0xcc, 0x79, 0xa7);
pub const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
pub const RED: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const REPLICAS: [RGBColor; 5] = [BLUE, ORANGE, GREEN, PURPLE, SKY];

pub fn replica_colour(i: usize) -> RGBColor {
    REPLICAS[i % REPLICAS.len()]
}

/// In SVG a list of fonts to try; in PNG the built-in font, which is registered under this name.
const FAMILY: &str = "Roboto, Helvetica, Arial, sans-serif";
const TITLE_SIZE: i32 = 46;
pub const TEXT_SIZE: i32 = 30;
const MARGIN: i32 = 44;

pub struct Picture {
    pub svg: String,
    pub png: Vec<u8>,
}

pub fn paint(figure: &impl Figure) -> Result<Picture, String> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let _ = register_font(FAMILY, FontStyle::Normal, include_bytes!("font/Roboto-Regular.ttf"));
        let _ = register_font(FAMILY, FontStyle::Bold, include_bytes!("font/Roboto-Bold.ttf"));
    });
    let (width, height) = figure.size();
    let mut svg = String::new();
    draw_on(figure, SVGBackend::with_string(&mut svg, (width, height)))?;
    let mut pixels = vec![0xff; width as usize * height as usize * 3];
    draw_on(figure, BitMapBackend::with_buffer(&mut pixels, (width, height)))?;
    Ok(Picture { svg, png: png(&pixels, width, height).map_err(|why| why.to_string())? })
}

fn draw_on<B: DrawingBackend>(figure: &impl Figure, backend: B) -> Result<(), String> {
    let area = backend.into_drawing_area();
    let draw = || -> Drawn<B> {
        area.fill(&WHITE)?;
        figure.body(&caption(&area, &figure.caption())?)?;
        area.present()
    };
    draw().map_err(|why| format!("{} cannot be drawn: {why}", figure.name()))
}

/// Draws title, sentence and legend; what is left below them is the body's.
fn caption<B: DrawingBackend>(
    area: &Area<B>,
    caption: &Caption,
) -> Result<Area<B>, DrawingAreaErrorKind<B::ErrorType>> {
    let title = (FAMILY, TITLE_SIZE, FontStyle::Bold).into_text_style(area).color(&TEXT_COLOUR);
    area.draw(&Text::new(caption.title.as_str(), (MARGIN, 30), title))?;
    area.draw(&Text::new(caption.subtitle.as_str(), (MARGIN, 92), text(&MUTED)))?;
    let mut x = MARGIN;
    for (mark, label) in &caption.legend {
        draw_mark(area, *mark, (x, 146))?;
        area.draw(&Text::new(label.as_str(), (x + 46, 148), text(&TEXT_COLOUR)))?;
        x += 46 + width_of(area, label) + 44;
    }
    let top = if caption.legend.is_empty() { 150 } else { 205 };
    let (width, height) = area.dim_in_pixel();
    Ok(area.clone().shrink((MARGIN, top), (width - 2 * MARGIN as u32, height - top as u32 - 24)))
}

fn draw_mark<B: DrawingBackend>(area: &Area<B>, mark: LegendMark, (x, y): (i32, i32)) -> Drawn<B> {
    match mark {
        LegendMark::Fill(colour) => area.draw(&Rectangle::new([(x, y), (x + 34, y + 24)], colour.filled())),
        LegendMark::Band(colour) => area.draw(&Rectangle::new([(x, y), (x + 34, y + 24)], colour.mix(0.25).filled())),
        LegendMark::Line(colour) => {
            area.draw(&PathElement::new([(x, y + 12), (x + 34, y + 12)], colour.stroke_width(5)))
        }
    }
}

/// The style of plain text.
pub fn text(colour: &RGBColor) -> TextStyle<'_> {
    TextStyle::from((FAMILY, TEXT_SIZE).into_font()).color(colour)
}

pub fn bold(colour: &RGBColor) -> TextStyle<'_> {
    TextStyle::from((FAMILY, TEXT_SIZE, FontStyle::Bold).into_font()).color(colour)
}

fn width_of<B: DrawingBackend>(area: &Area<B>, label: &str) -> i32 {
    area.estimate_text_size(label, &text(&TEXT_COLOUR)).map_or(0, |(width, _)| width as i32)
}

fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

/// A chart's frame: its ranges and the text on its axes.
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: std::ops::Range<f64>,
    pub y: std::ops::Range<f64>,
    pub x_title: &'a str,
    pub y_title: &'a str,
    /// Space for the numbers of the y axis, in pixels.
    pub y_label_width: u32,
    pub x_label: Option<&'a dyn Fn(&f64) -> String>,
    pub y_label: &'a dyn Fn(&f64) -> String,
    pub x_labels: usize,
}

pub type Chart<'a, B> =
    ChartContext<'a, B, Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>>;

impl Axes<'_> {
    /// Draws the frame; series go into what comes back.
    pub fn chart<'b, B: DrawingBackend>(
        &self,
        area: &'b Area<B>,
    ) -> Result<Chart<'b, B>, DrawingAreaErrorKind<B::ErrorType>> {
        let mut builder = ChartBuilder::on(area);
        builder.set_label_area_size(LabelAreaPosition::Left, self.y_label_width).margin_right(16);
        builder.set_label_area_size(LabelAreaPosition::Bottom, if self.x_title.is_empty() { 50 } else { 80 });
        builder.margin_bottom(12);
        builder.margin_top(if self.title.is_empty() { 16 } else { 58 });
        let mut chart = builder.build_cartesian_2d(self.x.clone(), self.y.clone())?;
        if !self.title.is_empty() {
            area.draw(&Text::new(self.title.to_string(), (8, 6), bold(&TEXT_COLOUR)))?;
        }
        let none = |_: &f64| String::new();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(RULE.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(MUTED.stroke_width(2))
            .label_style(text(&TEXT_COLOUR))
            .axis_desc_style(text(&MUTED))
            .x_labels(if self.x_label.is_some() { self.x_labels } else { 0 })
            .y_labels(6)
            .x_label_formatter(self.x_label.unwrap_or(&none))
            .y_label_formatter(self.y_label)
            .x_desc(self.x_title)
            .y_desc(self.y_title)
            .draw()?;
        Ok(chart)
    }
}

/// A number above a bar. `area` is the one that the chart was made on: the plot's own area would clip the text.
pub fn label_above<B: DrawingBackend>(area: &Area<B>, chart: &Chart<B>, point: (f64, f64), label: &str) -> Drawn<B> {
    let (x, y) = chart.backend_coord(&point);
    draw_text(area, (x, y - 6), label, text(&TEXT_COLOUR).pos(Pos::new(HPos::Center, VPos::Bottom)))
}

/// A measured value, and what was predicted.
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Written above it.
    pub label: String,
    pub colour: RGBColor,
    pub predicted: Option<f64>,
}

/// Bars on axes that have room for one on each unit of x.
pub fn bars<B: DrawingBackend>(area: &Area<B>, axes: &Axes, bars: &[Bar]) -> Drawn<B> {
    let mut chart = axes.chart(area)?;
    for (i, bar) in bars.iter().enumerate() {
        let at = |offset: f64| i as f64 + offset;
        chart.draw_series([Rectangle::new([(at(0.2), 0.0), (at(0.8), bar.value)], bar.colour.filled())])?;
        if let Some(predicted) = bar.predicted {
            let line = [(at(0.1), predicted), (at(0.9), predicted)];
            chart.draw_series([PathElement::new(line, TEXT_COLOUR.stroke_width(4))])?;
        }
        label_above(area, &chart, (at(0.5), bar.value.max(bar.predicted.unwrap_or(0.0))), &bar.label)?;
        label_below(area, &chart, at(0.5), &bar.name)?;
    }
    Ok(())
}

/// A line from top to bottom at `x`, with a label beside it, on row `row` from the top.
pub fn event_line<B: DrawingBackend>(area: &Area<B>, chart: &mut Chart<B>, x: f64, row: i32, label: &str) -> Drawn<B> {
    let range = chart.y_range();
    chart.draw_series([PathElement::new([(x, range.start), (x, range.end)], TEXT_COLOUR.stroke_width(3))])?;
    let (x, y) = chart.backend_coord(&(x, range.end));
    let (x, y) = (x + 10, y + 4 + row * 36);
    // Lines drawn before do not run through the text.
    let ((left, top), width) = (area.get_base_pixel(), width_of(area, label));
    let behind = [(x - left - 2, y - top), (x - left + width + 2, y - top + TEXT_SIZE)];
    area.draw(&Rectangle::new(behind, WHITE.filled()))?;
    draw_text(area, (x, y), label, text(&TEXT_COLOUR).pos(Pos::new(HPos::Left, VPos::Top)))
}

/// A name below the x axis.
pub fn label_below<B: DrawingBackend>(area: &Area<B>, chart: &Chart<B>, x: f64, label: &str) -> Drawn<B> {
    let (x, y) = chart.backend_coord(&(x, chart.y_range().start));
    draw_text(area, (x, y + 10), label, text(&TEXT_COLOUR).pos(Pos::new(HPos::Center, VPos::Top)))
}

/// A name left of the y axis.
pub fn label_left<B: DrawingBackend>(area: &Area<B>, chart: &Chart<B>, y: f64, label: &str) -> Drawn<B> {
    let (x, y) = chart.backend_coord(&(chart.x_range().start, y));
    draw_text(area, (x - 14, y), label, text(&TEXT_COLOUR).pos(Pos::new(HPos::Right, VPos::Center)))
}

/// Text at a pixel of the draw_on picture.
fn draw_text<B: DrawingBackend>(area: &Area<B>, (x, y): (i32, i32), label: &str, style: TextStyle) -> Drawn<B> {
    let (left, top) = area.get_base_pixel();
    area.draw(&Text::new(label.to_string(), (x - left, y - top), style))
}

/// 12345 as 12,345.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A round number not label_below `highest`, for the end of an axis.
pub fn axis_end(highest: f64) -> f64 {
    let unit = 10f64.powf(highest.max(1e-9).log10().floor());
    [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .map(|step| step * unit)
        .into_iter()
        .find(|end| *end >= highest)
        .unwrap_or(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Square;

    impl Figure for Square {
        fn name(&self) -> &'static str {
            "square"
        }
        fn caption(&self) -> Caption {
            Caption {
                title: "A square".into(),
                subtitle: "of one colour".into(),
                legend: vec![(LegendMark::Fill(BLUE), "it".into())],
            }
        }
        fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
            area.draw(&Rectangle::new([(0, 0), (100, 100)], BLUE.filled()))
        }
    }

    #[test]
    fn a_figure_is_painted_as_svg_and_as_png() {
        let picture = paint(&Square).unwrap();
        assert!(picture.svg.starts_with("<svg") && picture.svg.contains("A square"));
        let decoder = png::Decoder::new(std::io::Cursor::new(&picture.png));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(reader.info().size(), (WIDTH, 900));
        let inked = pixels.chunks(3).filter(|pixel| *pixel == [TEXT_COLOUR.0, TEXT_COLOUR.1, TEXT_COLOUR.2]).count();
        assert!(inked > 500, "the title is missing: {inked} pixels of its colour");
    }

    #[test]
    fn numbers_are_grouped_and_axes_end_on_round_ones() {
        assert_eq!([7, 1000, 1234567].map(grouped), ["7", "1,000", "1,234,567"]);
        assert_eq!([0.9, 3.2, 84.4, 3401.0].map(axis_end), [0.9_f64.max(1.0), 4.0, 100.0, 4000.0]);
    }
}
