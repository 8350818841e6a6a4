"""Images, in Chinese."""

IMAGES = {
    "There is no image {path}": "没有图像 {path}",
    ": the row names {name}, and {setting} is {folder}": "：该行写的是 {name}，而 {setting} 为 {folder}",
    ": set {setting} to the folder that this name begins in": "：请把 {setting} 设为该名称所在的目录",
    "There is no image {path}, which {place} names: give its folder by --image-folder": (
        "没有图像 {path}（{place} 写的是它）：请用 --image-folder 给出其目录"
    ),
    "the image {path} cannot be read: {error}": "无法读取图像 {path}：{error}",
    "the image {name} has no pixels": "图像 {name} 没有像素",
    "{name} is too large: images may have {MAX_PIXELS:,} pixels": "{name} 太大：图像最多 {MAX_PIXELS:,} 像素",
    "{name} is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed": (
        "{name} 太大：{width} x {height} 像素；最多 {MAX_PIXELS:,} 像素"
    ),
    "{name} is not an image: {formats} can be read": "{name} 不是图像：可读取 {formats}",
    "the image {name} is damaged or cut off: {error}": "图像 {name} 已损坏或不完整：{error}",
    "the image {name} has 32 bits a pixel, which say not what is white: save it with 8 or 16": (
        "图像 {name} 每像素 32 位，无法确定白色的值：请保存为 8 位或 16 位"
    ),
    "JPEG images of more than {pixels:,} pixels are read at half their size": (
        "超过 {pixels:,} 像素的 JPEG 图像按一半尺寸读取"
    ),
    "images that as a square would have more than {pixels:,} pixels are shrunk to {side} before": (
        "补成正方形后超过 {pixels:,} 像素的图像先缩小到 {side}"
    ),
    "{name} is too long: {width} x {height} pixels become more than {MAX_PIXELS:,}, resized to a "
    "shorter side of {edge}": (
        "{name} 太长：{width} x {height} 像素，短边缩放到 {edge} 后超过 {MAX_PIXELS:,} 像素"
    ),
    "{name} is damaged or cut off": "{name} 已损坏或不完整",
    "{name} cannot be read: {error}": "无法读取 {name}：{error}",
    "{name} is no .zip or plain .tar archive, or a damaged one: {error}": (
        "{name} 不是 .zip 或未压缩的 .tar 归档，或已损坏：{error}"
    ),
    "there is no {name} in {archive}": "{archive} 中没有 {name}",
    "{name} is encrypted or compressed in a way that is not read: pack {archive} again, as zip -0 does": (
        "{name} 已加密或压缩方式不受支持：请重新打包 {archive}，例如用 zip -0"
    ),
    "{archive} ends without the mark of its end: it may be cut off": "{archive} 没有结束标记：可能不完整",
    "the header at byte {byte:,} cannot be read": "无法读取第 {byte:,} 字节处的文件头",
    "{name}: files of kind .{suffix} are not read": "{name}：不读取 .{suffix} 类文件",
    "it is no object such as {{...}}": "它不是形如 {{...}} 的对象",
    "{place}: {name} cannot be read: {reason}": "{place}：无法读取 {name}：{reason}",
    "max_bytes is {max_bytes}: it must be at least 1": "max_bytes 为 {max_bytes}：应至少为 1",
    "an image needs {size:,} bytes: more than all of the cache may have": (
        "一个图像需要 {size:,} 字节：超过整个缓存的上限"
    ),
    "pixels cannot be kept in {folder}: {error}": "像素无法存入 {folder}：{error}",
    "the cache of pixels in {folder} is full: old ones are removed": "{folder} 中的像素缓存已满：移除旧的",
    "{archive}: {links} links to other files are left out": "{archive}：略去 {links} 个指向其他文件的链接",
    "there is no folder or archive of images {path}": "没有图像文件夹或归档 {path}",
    "the image": "图像",
    "the image of the row": "该行的图像",
    "the image of {size:,} bytes": "{size:,} 字节的图像",
    "an image of the row has neither bytes nor a path": "该行的一个图像既没有 bytes 也没有 path",
    "{value:.60} is no image: give the path of a file, a data: URL, bytes, or an object with "
    "bytes and path": ("{value:.60} 不是图像：请给出文件路径、data: URL、字节，或含 bytes 和 path 的对象"),
    "{url:.200} is no file of this machine": "{url:.200} 不是本机的文件",
    "{url:.200} is not fetched: download the image first, and name the file": (
        "不会下载 {url:.200}：请先下载图像，再给出文件名"
    ),
    "{name:.200} is outside of {folder}: only images in it are read": (
        "{name:.200} 在 {folder} 之外：只读取其中的图像"
    ),
    "{name}: the image must be in base64: data:image/png;base64,...": (
        "{name}：图像须用 base64 编码：data:image/png;base64,..."
    ),
    "{name}: this is not base64: {error}": "{name}：不是 base64：{error}",
    # of the web
    "{address:.200} is no address of the web": "{address:.200} 不是网络地址",
    "{address} cannot be fetched: it took more than {seconds:g} seconds": (
        "无法获取 {address}：耗时超过 {seconds:g} 秒"
    ),
    "{address} cannot be fetched: {reason:.200}": "无法获取 {address}：{reason:.200}",
    "{address} has more than {count:,} bytes": "{address} 超过 {count:,} 字节",
    "{address} ended before its last byte": "{address} 在最后一个字节之前中断",
    "{host:.200} is not fetched from: it is no public address": "不从 {host:.200} 获取：它不是公网地址",
    "no time is left": "时间已用完",
    "data: %s images; with them %s tokens, at most %s in a conversation": (
        "数据：%s 个图像；连同图像共 %s 个 token，一个对话最多 %s 个"
    ),
    # videos
    "video_frames is {count}: write 1 or more": "video_frames 为 {count}：应为 1 或更大",
    "videos are read by PyAV, which is not installed: {command}": "读取视频需要 PyAV，尚未安装：{command}",
    "{name} has no pictures: it is no video": "{name} 中没有画面：它不是视频",
    "the video {name} cannot be read: {error}": "视频 {name} 无法读取：{error}",
    "the video {name} has {width} x {height} pixels: scale it down": (
        "视频 {name} 有 {width} x {height} 像素：请缩小"
    ),
    "the video {name} has no frames": "视频 {name} 中没有帧",
    "{value:.60} is no video: give the path of a file": "{value:.60} 不是视频：请给出文件的路径",
    "the text has {count} <video>, and the row {videos} videos": (
        "文本中有 {count} 个 <video>，而该行有 {videos} 个视频"
    ),
    "the row has images and videos: write <image> and <video> in its text where they belong": (
        "该行既有图像又有视频：请在文本中相应的位置写上 <image> 和 <video>"
    ),
}
